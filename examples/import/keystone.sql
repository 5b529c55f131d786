-- mysqldump keystone user local_user password federated_user group user_group_membership
/*!40101 SET NAMES utf8mb4 */;
CREATE TABLE `user` (
  `id` varchar(64) NOT NULL,
  `extra` text,
  `enabled` tinyint(1) DEFAULT NULL,
  `default_project_id` varchar(64) DEFAULT NULL,
  `domain_id` varchar(64) NOT NULL,
  PRIMARY KEY (`id`),
  CONSTRAINT `CONSTRAINT_1` CHECK (`enabled` in (0,1))
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
LOCK TABLES `user` WRITE;
INSERT INTO `user` VALUES
('a1','{\"email\": \"ada@example.com\", \"description\": \"Ada O\'Neil\"}',1,NULL,'default'),
('b2','{}',0,NULL,'default'),
('c3',NULL,1,NULL,'default');
UNLOCK TABLES;
INSERT INTO `local_user` (`id`, `user_id`, `domain_id`, `name`) VALUES (1,'a1','default','ada'),(2,'b2','default','bob');
INSERT INTO `password` (`id`, `local_user_id`, `password_hash`, `created_at_int`) VALUES
(1,1,'$6$rounds=10000$salt$old',1704067200000000),(2,1,'$2b$10$Crp.JRmPaTvHiaNv0vwaM.RQnwtFtjgGk9MRsobGNrgrmOptI6WaW',1767225600000000),
(3,2,'$scrypt$ln=14,r=8,p=1$xbh3TikF4Px/L6WU8j7nvA$KFDvUvSPqftXKUXp6lgtNNEJmBiK3xn8bTCNMHHXvpE',1767225600000000);
INSERT INTO `federated_user` (`id`, `user_id`, `idp_id`, `protocol_id`, `unique_id`, `display_name`) VALUES
(1,'c3','corporate','openid','eve-4711','eve');
INSERT INTO `group` (`id`, `domain_id`, `name`, `description`, `extra`) VALUES ('g1','default','Operators','Who runs it','{}');
INSERT INTO `user_group_membership` (`user_id`, `group_id`) VALUES ('a1','g1');
